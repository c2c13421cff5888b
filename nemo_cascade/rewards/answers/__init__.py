"""Read final answers of mathematics and tell whether two are equal: boxes, look, tokens, nodes, values, equality."""
