"""Files: written, published, hashed and listed in one way, so that there is one answer to what survives a kill."""
