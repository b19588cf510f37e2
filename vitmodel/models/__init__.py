"""Networks: one file a family, `build` from configuration to module, `weights` in and out."""
