"""Models of timm, one or a few of each family, with the sample that they are converted with; needs timm."""

from __future__ import annotations

from torch import nn

from tests.zoo.torchvision_models import ZooModel

import timm  # isort: skip  # after torchvision's operations are declared

_DYNAMIC, _PADDED = {"dynamic_img_size": True}, {"dynamic_img_size": True, "dynamic_img_pad": True}
_ANY_SIZE = {"strict_img_size": False}

# The height and width of the sample, where those that the weights were trained with are not taken; and options.
_SAMPLES: dict[str, tuple[tuple[int, int], dict[str, bool]]] = {
    "vit_tiny_patch16_224": ((192, 240), _DYNAMIC),
    "vit_small_patch16_224": ((200, 250), _PADDED),
    "vit_small_patch14_reg4_dinov2": ((224, 252), _DYNAMIC),
    "vit_tiny_r_s16_p8_224": ((192, 256), _DYNAMIC),
    "eva02_tiny_patch14_336": ((280, 308), _DYNAMIC),
    "swin_tiny_patch4_window7_224": ((224, 224), _ANY_SIZE),
    "swinv2_tiny_window8_256": ((256, 256), _ANY_SIZE),
}
_NAMES = (
    "bat_resnext26ts", "botnet26t_256", "caformer_s18", "cait_xxs24_224", "coat_tiny", "coatnet_nano_rw_224",
    "convit_tiny", "convnextv2_atto", "cpubone_b0_bfrobust", "crossvit_tiny_240", "cs3darknet_focus_s", "csatv2",
    "davit_tiny", "deit_tiny_distilled_patch16_224", "dla34", "edgenext_xx_small", "efficientformer_l1",
    "efficientformerv2_s0", "efficientvim_m1", "efficientvit_b0", "efficientvit_m0", "ese_vovnet19b_dw",
    "eva02_tiny_patch14_336", "fastvit_t8", "focalnet_tiny_srf", "gcvit_xxtiny", "ghostnetv2_100", "gmlp_ti16_224",
    "halonet26t", "hgnetv2_b0", "hiera_tiny_224", "hrnet_w18_small", "lambda_resnet26t", "levit_128s",
    "levit_conv_128s", "lowformer_b0", "mambaout_femto", "maxvit_rmlp_pico_rw_256", "maxvit_tiny_tf_224",
    "mixer_s32_224", "mobilenetv4_conv_small", "mobileone_s0", "mobilevit_xxs", "mvitv2_tiny", "nest_tiny",
    "nextvit_small", "pit_ti_224", "poolformer_s12", "pvt_v2_b0", "regnety_002", "repvit_m0_9", "resnest14d",
    "resnet26d", "samvit_base_patch16_224", "swiftformer_xs", "swin_tiny_patch4_window7_224", "swinv2_cr_tiny_224",
    "swinv2_tiny_window8_256", "tf_efficientnet_b0", "tf_mobilenetv3_small_075", "tiny_vit_5m_224", "twins_svt_small",
    "visformer_tiny", "vit_small_patch14_reg4_dinov2", "vit_small_patch16_224", "vit_small_patch16_dinov3",
    "vit_tiny_patch16_224", "vit_tiny_r_s16_p8_224", "volo_d1_224", "xcit_nano_12_p16_224",
)  # fmt: skip


class TimmModel(ZooModel):
    """A model of timm, of which some do arithmetic on their weights when they are made, so that they need real ones."""

    def on_meta(self) -> nn.Module:
        return self.build().eval().to("meta")


def timm_models() -> list[ZooModel]:
    """The models, with fresh weights: none is downloaded."""
    return [_model(name) for name in _NAMES]


def _model(name: str) -> ZooModel:
    size, options = _SAMPLES.get(name) or (timm.get_pretrained_cfg(name, allow_unregistered=False).input_size[-2:], {})
    label = ", ".join([name, *(option if on else f"no {option}" for option, on in options.items())])
    return TimmModel(label, lambda: timm.create_model(name, **options), (3, *size), (3, *size))
