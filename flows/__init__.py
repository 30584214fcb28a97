"""Compositions a person launches: the command line and the Prefect flows."""
