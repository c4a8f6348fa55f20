"""Twisted protocols and factories: thin, between a socket and a wire."""
