"""What people call, each as the steps that it takes or the questions that it asks.

Knows every room of the tool but the command line, which is the only one to import it.
"""
