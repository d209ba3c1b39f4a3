"""What the backend tells its administrators about itself: metrics, logs, traces.

Whoever does something says so here; nothing here knows what it means.
"""
