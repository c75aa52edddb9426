"""`t2i serve`: a pipeline behind HTTP."""
