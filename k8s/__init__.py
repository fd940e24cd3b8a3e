"""How Rangeboard runs on Kubernetes: manifests (kustomize `base` and `overlays`), and the reconciler of its cluster."""
