"""Arguments of the configs of textual degradation removal: each way to write one."""

SIZES = ("sd21", "sd15", "tiny")
ARGUMENTS = {
    "tdr_towers": [
        "",
        "part=vision,data=photos",
        "part=vae,data=photos,steps=7,batch=3",
        "part=unet,data=photos,vae=towers/vae",
    ],
    "tdr_i2t": [
        "",
        *(f"size={size}" for size in SIZES),
        "size=sd21,stack=sd,vision=clip,data=photos,rain=r,haze=h,blur=b,steps=7,batch=32",
    ],
    "tdr_tr": [
        "",
        *(f"size={size}" for size in SIZES),
        "size=tiny,stack=sd,vision=clip,words=i2t,data=photos,rain=r,direct=0.5,batch=8",
        "size=tiny,recipe=paper,stack=sd,data=photos",
    ],
}
