"""The commands with which operators look at the state and change it.

They need MongoDB and not Atlas; only ``keys`` needs the encryption keys.
"""
