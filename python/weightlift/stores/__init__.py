"""The stores: places that hold files. A new store is one module here and one line in ``by_scheme``."""
