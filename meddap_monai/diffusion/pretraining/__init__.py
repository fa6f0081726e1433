"""The stage `pretrain`: an own latent diffusion base on unlabelled images."""
