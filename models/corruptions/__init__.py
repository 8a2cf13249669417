"""Common corruptions of images, in the manner and at the strengths of CIFAR-10-C."""
