"""Mutation tests (slow tier): one small fault at a time in the code that must not be wrong; the tests of its module
notice.
"""
