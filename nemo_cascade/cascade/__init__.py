"""The cascade: plan, runner, gate, ledger, report. No torch here."""
