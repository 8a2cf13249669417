"""Methods of pretraining and training, each registered in a file of its own."""
