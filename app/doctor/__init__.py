"""`clead doctor`: is this deployment whole? It looks from the machine it runs on, and changes nothing.

The one thing that it writes is an object in the storage, which it takes away again.
"""
