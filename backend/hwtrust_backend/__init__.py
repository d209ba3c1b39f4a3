"""The hwtrust server: enrols devices, believes only what their TPMs sign, replaces their roots.

    config   settings, the clock, files written safely
    db       one unit of work, one transaction; migrations
    audit    every decision, in the transaction that makes it
    keys     what the backend signs with, behind a seam
    enrolment | references      devices, tokens, EK trust | releases
    appraisal | publishing      evidence and verdicts | roots and their rotation
    monitor  which device is how, and what to do about it
    admin    what an administrator may ask for
    app      HTTP, TLS, who is calling
    cli      hwtrust-backend

Each name imports only names above it; peers do not import each other.
"""
