"""Every network that restores without a sentence, in a size that compiles in seconds."""

LEVELS = dict(dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1, heads=(1, 1, 2, 2))
SMALLEST = {
    "restormer": LEVELS,
    "promptir": LEVELS,
    "nafnet": dict(width=8, middle_blk_num=1, enc_blk_nums=(1,), dec_blk_nums=(1,)),
    "sfnet": dict(base_channel=16, num_res=2),
    "drsformer": dict(dim=8, num_blocks=(1, 1, 1, 1), heads=(1, 1, 2, 2)),
}
GUIDED = SMALLEST["nafnet"] | dict(n_blks=(1, 1), reffusion_n_blocks=(1, 1))
GREY = SMALLEST["nafnet"] | dict(img_channel=1)
DUAL_PIXEL = SMALLEST["restormer"] | dict(inp_channels=6, dual_pixel_task=True)
