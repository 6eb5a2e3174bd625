"""The keeper: lease, health, fence, binding and announcing; it knows no Kubernetes."""
