"""An Atlas that answers like Atlas: the Admin API v2 as recorded on the wire, over a real `mongod`.

`python -m tests.emulator --mongo URI` serves it; `tests.emulator.client.Emulator` starts and steers it from tests.
"""
