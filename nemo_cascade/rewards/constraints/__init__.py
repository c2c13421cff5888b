"""Verifiable constraints on a text: the IFEval and IFBench-train taxonomies."""
