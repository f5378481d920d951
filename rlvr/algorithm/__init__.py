"""The parts of the policy gradient: advantage, ratio, loss, entropy bonus, learning rate."""
