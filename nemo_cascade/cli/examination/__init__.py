"""What `nemo-cascade doctor` looks at: packages, the device, the machine, the network between nodes, the scheduler."""
