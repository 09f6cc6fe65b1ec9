"""The Open Service Broker protocol over HTTP: Flask's only home.

It knows headers, bodies, paths and status codes. What an answer means is the business of the service below.
"""
