"""The revisions, in files named NNNN_subject.py: four digits, which are the revision's id."""
