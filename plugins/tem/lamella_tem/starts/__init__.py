"""Networks that labels of synthetic devices have trained, for `DeepLabV3Plus` to start from."""
