"""Parameters, FLOPs and activations of every model and objective, in closed form. No torch.

One convention everywhere: 2 FLOPs a multiply-accumulate, training = 3 x forward.
"""
