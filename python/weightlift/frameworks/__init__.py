"""Frameworks whose live models and model files are known; none is imported before a model of it is at hand."""
