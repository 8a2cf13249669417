"""The use cases. Each function takes a session first, raises domain errors, and knows nothing of HTTP or Celery.

A function that reads and then writes says "writing" in its docstring: call it inside ``Database.writing()``.
"""
