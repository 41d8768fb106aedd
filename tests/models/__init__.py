"""Tests of models/: what is true."""
