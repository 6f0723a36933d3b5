"""The networks. Letters: B batch, V visible slots, K target slots, P raw token width, D width, H heads.

Nothing here knows of processes, devices, files or logging.
"""
