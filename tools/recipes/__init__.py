"""How the bundled models were made: seeded training scripts, the only place that needs PyTorch."""
