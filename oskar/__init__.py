"""OSKAR: one transformer pretrained on video, skeletons and text by masked latent prediction."""
