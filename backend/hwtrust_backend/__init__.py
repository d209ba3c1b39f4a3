"""The hwtrust server: enrols devices, believes only what their TPMs sign, replaces their roots.

    config   settings, the clock, files written safely
    observe  metrics, logs, traces
    db | keys                   one unit of work, migrations | what the backend signs with
    audit    every decision, in the transaction that makes it: a Merkle log
    webhooks | push             who is told: receivers | devices that wait
    references | policies       releases | what groups of devices are held to
    enrolment                   devices, tokens, EK trust
    appraisal | publishing      evidence and verdicts | roots, their schedule and rotation
    monitor | results           which device is how, and what is due | signed attestation results
    admin    what an administrator may ask for, and who is one
    pages    the same for people, in a browser
    app      HTTP, TLS, who is calling, workers, background
    cli      hwtrust-backend

Each name imports only names above it; peers do not import each other.
"""
