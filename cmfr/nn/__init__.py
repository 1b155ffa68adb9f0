"""Parts of codecs: layers, densities, entropy coding, the entropy model of one latent."""
