"""The studies behind the numbers of the book that are not the review's experiments; each module is a command.

A study writes a file of `data/results/`, record by record, and does not compute again what is there: interrupted, it
goes on with the same command, which `python -m dvae_lib.experiments.studies.NAME --help` describes. `data/README.md`
says which file is made by which.
"""
