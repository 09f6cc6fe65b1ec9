"""The Open Service Broker protocol over HTTP: headers, bodies, paths, status codes. Only here is Flask known.

What a request does is decided by ``broker_api.service``.
"""
