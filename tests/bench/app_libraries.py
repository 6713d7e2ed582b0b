"""The same module, with the libraries of an ordinary machine learning job imported in the zygote."""

import numpy  # noqa: ICN001, F401 - imported for its size
import pandas  # noqa: ICN001, F401
import sklearn.ensemble
import sklearn.svm  # noqa: F401

from tests.bench.app import q  # noqa: F401
