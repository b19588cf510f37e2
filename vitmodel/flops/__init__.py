"""Parameters, FLOPs and token grids of every model, in closed form. No torch.

One convention everywhere: 2 FLOPs a multiply-accumulate, training = 3 x forward.
"""
