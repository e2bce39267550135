"""The same small service written with other libraries: a message in, the model's answer out. One file each.

They keep nothing unless their file says so. All run under the same uvicorn, uvloop and httptools as Sampan.
"""
