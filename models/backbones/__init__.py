"""Backbones: networks from normalized images (N, C, H, W) to features (N, D), each registered in a file of its own."""
