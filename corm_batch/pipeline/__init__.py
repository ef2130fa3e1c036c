"""The batch job on Ray: plan, actors, ledger, commits."""
