"""Pure tensor maths of the losses."""
