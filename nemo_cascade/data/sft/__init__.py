"""From rows to packed stores of tokenised samples."""
