"""Training data: data sets, how they are sampled, how clips are made of videos."""
