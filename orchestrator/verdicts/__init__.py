"""The workshop behind `orchestrator.judge`: one judgement a claim, each from one view's points."""
