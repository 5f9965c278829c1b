"""The dependencies of the review's models, as its chapters state them."""

from dvae_lib.graphs import DependencySpec

SSM_GENERATION = """
    z_t ~ z_{t-1}        # (3.10)
    x_t ~ z_t            # (3.12)
"""
DRIVEN_SSM_GENERATION = """
    z_t ~ z_{t-1}, u_t   # (3.10)
    x_t ~ z_t            # (3.12)
"""
GRNN = DependencySpec("h_t <- u_t, h_{t-1}\nx_t ~ h_t")  # (3.5)-(3.7)
PREDICTIVE_GRNN = DependencySpec("h_t <- x_{t-1}, h_{t-1}\nx_t ~ h_t")
SSM = DependencySpec(SSM_GENERATION)
DRIVEN_SSM = DependencySpec(DRIVEN_SSM_GENERATION)

VAE = DependencySpec("z_t ~\nx_t ~ z_t", "z_t ~ x_t")

FIGURE_4_1_SHARED = DependencySpec(  # (4.9)-(4.13)
    "h_t <- x_{t-1}, h_{t-1}\nz_t ~ h_t, u_t\nx_t ~ z_t, h_t"
)
FIGURE_4_1_SEPARATE = DependencySpec(  # (4.14)-(4.19)
    "h_t <- x_{t-1}, h_{t-1}\nk_t <- x_{t-1}, k_{t-1}\nz_t ~ h_t, u_t\nx_t ~ z_t, k_t"
)

DKF_SMOOTHER = """
    g_bwd_t <- g_bwd_{t+1}, x_t    # (5.4)
    g_t <- z_{t-1}, g_bwd_t        # (5.5)
    z_t ~ g_t                      # (5.7)
"""
DKF = DependencySpec(SSM_GENERATION, DKF_SMOOTHER)
DKF_BIDIRECTIONAL = DependencySpec(
    SSM_GENERATION,
    """
    g_fwd_t <- g_fwd_{t-1}, x_t
    g_bwd_t <- g_bwd_{t+1}, x_t
    g_t <- z_{t-1}, g_fwd_t, g_bwd_t
    z_t ~ g_t
    """,
)
DKF_DRIVEN = DependencySpec(
    DRIVEN_SSM_GENERATION,
    """
    g_bwd_t <- g_bwd_{t+1}, x_t, u_t
    g_t <- z_{t-1}, g_bwd_t
    z_t ~ g_t
    """,
)
DKF_INSTANTANEOUS = DependencySpec(SSM_GENERATION, "z_t ~ x_t")
DKF_LOCAL = DependencySpec(SSM_GENERATION, "z_t ~ x_{t-1:t+1}")
DKF_PAST = DependencySpec(SSM_GENERATION, "g_t <- g_{t-1}, x_t\nz_t ~ g_t")
DKF_WHOLE = DependencySpec(SSM_GENERATION, "f_t <- f_{t-1}, x_t\ng_t <- g_{t+1}, x_t\nz_t ~ f_t, g_t")

KVAE = DependencySpec(  # (6.1)-(6.6), (6.12)-(6.15)
    "z_t ~ z_{t-1}, u_t\na_t ~ z_t\nx_t ~ a_t",
    "a_t ~ x_t\nz_t ~ z_{t-1}, a_{t:T}, u_{t:T}",
)
KVAE_UNDRIVEN = KVAE.undriven()
KVAE_BACKWARD = DependencySpec(  # the smoother sampled backwards in time
    "z_t ~ z_{t-1}\na_t ~ z_t\nx_t ~ a_t",
    "a_t ~ x_t\nz_t ~ z_{t+1}, a_{1:t}",
)
KVAE_MIXED = DependencySpec(  # the dynamics are a mixture whose weights an LSTM computes from past a
    "w_t <- a_{t-1}, w_{t-1}\nz_t ~ z_{t-1}, w_t\na_t ~ z_t, w_t\nx_t ~ a_t",
    "a_t ~ x_t\nz_t ~ z_{t-1}, a_{1:T}",
)
KVAE_MIXED_BACKWARD = DependencySpec(
    "w_t <- a_{t-1}, w_{t-1}\nz_t ~ z_{t-1}, w_t\na_t ~ z_t, w_t\nx_t ~ a_t",
    "a_t ~ x_t\nz_t ~ z_{t+1}, w_{t+1}, a_{1:t}",
)

STORN = DependencySpec(
    """
    h_t <- x_{t-1}, z_t, h_{t-1}   # (7.4)
    z_t ~                          # (7.7)
    x_t ~ h_t                      # (7.6)
    """,
    """
    g_t <- x_t, g_{t-1}            # (7.15)
    z_t ~ g_t                      # (7.17)
    """,
)
VRNN = DependencySpec(
    """
    h_t <- x_{t-1}, z_{t-1}, h_{t-1}   # (8.1)
    z_t ~ h_t                          # (8.5)
    x_t ~ z_t, h_t                     # (8.3)
    """,
    """
    z_t ~ x_t, h_t                     # (8.12)
    """,
)
SRNN = DependencySpec(
    """
    h_t <- x_{t-1}, h_{t-1}   # (9.1)
    z_t ~ z_{t-1}, h_t        # (9.5)
    x_t ~ z_t, h_t            # (9.3)
    """,
    """
    g_bwd_t <- h_t, x_t, g_bwd_{t+1}   # (9.10)
    z_t ~ z_{t-1}, g_bwd_t             # (9.12)
    """,
)
SRNN_DRIVEN = DependencySpec(
    "h_t <- u_t, x_{t-1}, h_{t-1}\nz_t ~ z_{t-1}, h_t\nx_t ~ z_t, h_t",
    "g_bwd_t <- h_t, x_t, g_bwd_{t+1}\nz_t ~ z_{t-1}, g_bwd_t",
)
SRNN_FILTER = DependencySpec("h_t <- x_{t-1}, h_{t-1}\nz_t ~ z_{t-1}, h_t\nx_t ~ z_t, h_t", "z_t ~ z_{t-1}, h_t, x_t")
RVAE_CAUSAL = DependencySpec(
    """
    z_t ~                # (10.3)
    h_t <- z_t, h_{t-1}  # (10.4)
    x_t ~ h_t            # (10.6)
    """,
    """
    g_fwd_t <- z_{t-1}, g_fwd_{t-1}   # (10.18)
    g_bwd_t <- x_t, g_bwd_{t+1}       # (10.19)
    g_t <- g_fwd_t, g_bwd_t           # (10.20)
    z_t ~ g_t                         # (10.22)
    """,
)
RVAE_NONCAUSAL = DependencySpec(
    """
    z_t ~                        # (10.3)
    h_fwd_t <- z_t, h_fwd_{t-1}  # (10.9)
    h_bwd_t <- z_t, h_bwd_{t+1}  # (10.10)
    h_t <- h_fwd_t, h_bwd_t      # (10.11)
    x_t ~ h_t                    # (10.13)
    """,
    """
    gz_fwd_t <- z_{t-1}, gz_fwd_{t-1}     # (10.24)
    gx_fwd_t <- x_t, gx_fwd_{t-1}         # (10.25)
    gx_bwd_t <- x_t, gx_bwd_{t+1}         # (10.26)
    g_t <- gz_fwd_t, gx_fwd_t, gx_bwd_t   # (10.27)
    z_t ~ g_t                             # (10.29)
    """,
)
DSAE_GENERATION = """
    v ~                       # (11.1)
    h_t <- z_{t-1}, h_{t-1}   # (11.2)
    z_t ~ h_t                 # (11.4)
    x_t ~ z_t, v              # (11.6)
"""
DSAE_V = """
    gv_fwd_t <- x_t, gv_fwd_{t-1}   # (11.12)
    gv_bwd_t <- x_t, gv_bwd_{t+1}   # (11.13)
    gv <- gv_fwd_T, gv_bwd_1        # (11.14)
    v ~ gv                          # (11.16)
"""
DSAE_FULL = DependencySpec(
    DSAE_GENERATION,
    DSAE_V
    + """
    gz_fwd_t <- x_t, v, gz_fwd_{t-1}   # (11.17)
    gz_bwd_t <- x_t, v, gz_bwd_{t+1}   # (11.18)
    gz_t <- gz_fwd_t, gz_bwd_t         # (11.19)
    z_t ~ gz_t                         # (11.21)
    """,
)
DSAE_FACTORISED = DependencySpec(DSAE_GENERATION, DSAE_V + "    z_t ~ x_t")

# Models beyond the review's own: latent variables of any name, several a frame, one for the sequence alone.
VRAE = DependencySpec(  # Fabius and van Amersfoort (2014)
    "v ~\nh_t <- x_{t-1}, h_{t-1}, v\nx_t ~ h_t",
    "g_t <- x_t, g_{t-1}\nv ~ g_T",
)
DVBF = DependencySpec(  # Karl et al. (2017): the noise is inferred, the state follows
    "w_t ~\nz_t <- z_{t-1}, u_t, w_t\nx_t ~ z_t",
    "w_t ~ z_{t-1}, x_t, u_t",
)
DSSM = DependencySpec(  # (12.1) and Miladinovic et al. (2019)
    "v ~\nz_t ~ z_{t-1}, v\nx_t ~ z_t",
    "gv_t <- x_t, gv_{t-1}\nv ~ gv_T\nz_t ~ z_{t-1}, v, x_t",
)
SVAE = DependencySpec(  # Johnson et al. (2016), the latent LDS: potentials of single frames
    DRIVEN_SSM_GENERATION, "r_t <- x_t\nz_t ~ z_{t-1}, r_{t:T}, u_{t:T}"
)
ARCHER_BACKWARD = DependencySpec(SSM_GENERATION, "z_t ~ z_{t+1}, x_{t:t+1}")  # Archer et al. (2015), the free factor
RSSM = DependencySpec(  # Hafner et al. (2019); the action before a frame is the review's u_t
    "h_t <- h_{t-1}, z_{t-1}, u_t\nz_t ~ h_t\nx_t ~ h_t, z_t",
    "z_t ~ h_t, x_t",
)
LADDER = DependencySpec(
    "z2_t ~ z2_{t-1}\nz1_t ~ z1_{t-1}, z2_t\nx_t ~ z1_t",
    "b_t <- x_t, b_{t+1}\nz2_t ~ z2_{t-1}, b_t\nz1_t ~ z1_{t-1}, z2_t, b_t",
)

MODELS = {
    "VAE": VAE,
    "DKF": DKF,
    "DKF, bidirectional": DKF_BIDIRECTIONAL,
    "DKF, driven": DKF_DRIVEN,
    "KVAE": KVAE,
    "KVAE, undriven": KVAE_UNDRIVEN,
    "KVAE, backward": KVAE_BACKWARD,
    "KVAE, mixed": KVAE_MIXED,
    "KVAE, mixed, backward": KVAE_MIXED_BACKWARD,
    "STORN": STORN,
    "VRNN": VRNN,
    "SRNN": SRNN,
    "SRNN, driven": SRNN_DRIVEN,
    "SRNN, filter": SRNN_FILTER,
    "RVAE, causal": RVAE_CAUSAL,
    "RVAE, noncausal": RVAE_NONCAUSAL,
    "DSAE, full": DSAE_FULL,
    "DSAE, factorised": DSAE_FACTORISED,
    "VRAE": VRAE,
    "DVBF": DVBF,
    "DSSM": DSSM,
    "SVAE": SVAE,
    "Archer, free": ARCHER_BACKWARD,
    "RSSM": RSSM,
    "two levels": LADDER,
}
