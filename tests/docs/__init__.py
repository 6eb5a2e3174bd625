"""The documentation's reference pages, made from what they describe, and the tests of all pages."""
