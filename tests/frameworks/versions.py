"""Run in a framework's environment: which framework is there, and that weightlift is the one under test."""

import importlib
import json
import sys

import weightlift

module = importlib.import_module(sys.argv[1])
print(json.dumps({"version": module.__version__, "weightlift": weightlift.__version__}))
