"""What kstatus and Argo CD make of our objects, and that applying them twice changes nothing."""
