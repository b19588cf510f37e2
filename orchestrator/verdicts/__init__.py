"""The workshop behind `orchestrator.verdicts.judge`: one judgement a claim, each from one view's points."""
