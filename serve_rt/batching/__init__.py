"""`serve.batch`: many calls, one run of the function."""
