"""Workers elsewhere: one job of Slurm, Ray or Kubernetes that keeps a command running on other machines."""
